//! Elements of HTML and SVG that are written as XML: whatever text they are given, they are well-formed.

use std::fmt;

/// Elements that HTML wants without an end tag; SVG's may be written so.
const WITHOUT_END: [&str; 7] = ["circle", "line", "link", "meta", "path", "polygon", "rect"];

/// An element with what is in it.
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
    /// A style sheet is no text to a browser, and ours has nothing to escape.
    Verbatim(&'static str),
}

/// An empty one.
pub fn element(name: &'static str) -> Element {
    Element { name, attributes: Vec::new(), children: Vec::new() }
}

impl Element {
    /// One attribute more.
    pub fn attr(mut self, name: &'static str, value: impl ToString) -> Element {
        self.attributes.push((name, value.to_string()));
        self
    }

    /// Its class, or several with spaces between them.
    pub fn class(self, name: &str) -> Element {
        self.attr("class", name)
    }

    /// Text behind what is in it.
    pub fn text(mut self, text: impl ToString) -> Element {
        self.children.push(Node::Text(text.to_string()));
        self
    }

    /// What must not be escaped, as a style sheet.
    pub fn verbatim(mut self, text: &'static str) -> Element {
        self.children.push(Node::Verbatim(text));
        self
    }

    /// An element behind what is in it.
    pub fn child(mut self, child: Element) -> Element {
        self.children.push(Node::Element(child));
        self
    }

    /// Several.
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
        if self.children.is_empty() && WITHOUT_END.contains(&self.name) {
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
                // XML has no way to write them, and nobody could read them.
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
    fn whatever_is_given_stays_text() {
        let nasty = "</td><script>alert('x & \"y\"')</script>\u{1b}[31m\u{0}";
        let written = element("td").attr("title", nasty).text(nasty).to_string();
        let parsed = roxmltree::Document::parse(&written).unwrap();
        let expected = nasty.replace(['\u{1b}', '\u{0}'], "\u{fffd}");
        assert_eq!(parsed.root_element().text(), Some(expected.as_str()));
        assert_eq!(parsed.root_element().attribute("title"), Some(expected.as_str()));
        assert_eq!(parsed.descendants().filter(|node| node.is_element()).count(), 1);
    }

    #[test]
    fn only_what_html_knows_so_is_written_without_an_end() {
        assert_eq!(element("td").to_string(), "<td></td>");
        assert_eq!(element("line").attr("x1", 3).to_string(), "<line x1=\"3\"/>");
    }
}
