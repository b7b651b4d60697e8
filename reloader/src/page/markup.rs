//! Writes HTML and SVG elements as XML. The result is well-formed for any text.

use std::fmt;

/// HTML elements that have no end tag, and SVG elements that need none.
const VOID_ELEMENTS: [&str; 7] = ["circle", "line", "link", "meta", "path", "polygon", "rect"];

/// An element with its attributes and content.
#[derive(Debug, Clone)]
pub struct Element {
    name: &'static str,
    attributes: Vec<(&'static str, String)>,
    children: Vec<Node>,
}

#[derive(Debug, Clone)]
enum Node {
    Element(Element),
    Text(String),
    /// A style sheet, written without escapes: browsers do not unescape style sheets. Those of this program have no character to escape.
    Verbatim(&'static str),
}

/// An element without attributes and content.
pub fn element(name: &'static str) -> Element {
    Element { name, attributes: Vec::new(), children: Vec::new() }
}

impl Element {
    /// Adds an attribute.
    pub fn attr(mut self, name: &'static str, value: impl ToString) -> Element {
        self.attributes.push((name, value.to_string()));
        self
    }

    /// Sets the class, or several classes separated by spaces.
    pub fn class(self, names: &str) -> Element {
        self.attr("class", names)
    }

    /// Appends text, which is escaped.
    pub fn text(mut self, text: impl ToString) -> Element {
        self.children.push(Node::Text(text.to_string()));
        self
    }

    /// Appends text that must not be escaped, such as a style sheet.
    pub fn verbatim(mut self, text: &'static str) -> Element {
        self.children.push(Node::Verbatim(text));
        self
    }

    /// Appends an element.
    pub fn child(mut self, child: Element) -> Element {
        self.children.push(Node::Element(child));
        self
    }

    /// Appends elements.
    pub fn children(mut self, children: impl IntoIterator<Item = Element>) -> Element {
        self.children.extend(children.into_iter().map(Node::Element));
        self
    }
}

impl fmt::Display for Element {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "<{}", self.name)?;
        for (name, value) in &self.attributes {
            write!(out, " {name}=\"{}\"", Escaped(value))?;
        }
        if self.children.is_empty() && VOID_ELEMENTS.contains(&self.name) {
            return out.write_str("/>");
        }
        out.write_str(">")?;
        for child in &self.children {
            match child {
                Node::Element(element) => write!(out, "{element}")?,
                Node::Text(text) => write!(out, "{}", Escaped(text))?,
                Node::Verbatim(text) => out.write_str(text)?,
            }
        }
        write!(out, "</{}>", self.name)
    }
}

struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => out.write_str("&amp;")?,
                '<' => out.write_str("&lt;")?,
                '>' => out.write_str("&gt;")?,
                '"' => out.write_str("&quot;")?,
                '\'' => out.write_str("&#39;")?,
                '\n' | '\t' => write!(out, "{character}")?,
                // XML cannot represent control characters.
                control if control.is_control() => out.write_str("\u{fffd}")?,
                '\u{fffe}' | '\u{ffff}' => out.write_str("\u{fffd}")?,
                other => write!(out, "{other}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped() {
        let nasty = "</td><script>alert('x & \"y\"')</script>\u{1b}[31m\u{0}";
        let written = element("td").attr("title", nasty).text(nasty).to_string();
        let parsed = roxmltree::Document::parse(&written).unwrap();
        let expected = nasty.replace(['\u{1b}', '\u{0}'], "\u{fffd}");
        assert_eq!(parsed.root_element().text(), Some(expected.as_str()));
        assert_eq!(parsed.root_element().attribute("title"), Some(expected.as_str()));
        assert_eq!(parsed.descendants().filter(|node| node.is_element()).count(), 1);
    }

    #[test]
    fn only_void_elements_are_written_without_an_end_tag() {
        assert_eq!(element("td").to_string(), "<td></td>");
        assert_eq!(element("line").attr("x1", 3).to_string(), "<line x1=\"3\"/>");
    }
}
