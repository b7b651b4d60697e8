//! The order in which `reload --all` reloads services, from their key `after`. Pure.

use super::service::HAPROXY;
use super::settings::Config;

impl Config {
    /// The services that a service names in `after`.
    pub fn after(&self, name: &str) -> &[String] {
        match self.services.get(name) {
            Some(service) => &service.after,
            None => self.haproxy.as_ref().filter(|_| name == HAPROXY).map_or(&[], |haproxy| &haproxy.after),
        }
    }

    /// All services, each after those that it names in `after`. Otherwise HAProxy is first, and names are in alphabetical order.
    pub fn reload_order(&self) -> Vec<String> {
        let mut waiting = self.names();
        let mut order = Vec::new();
        while let Some(place) = waiting.iter().position(|name| self.after(name).iter().all(|one| order.contains(one))) {
            order.push(waiting.remove(place));
        }
        order
    }

    /// Checks that `after` names other services of the configuration, each once, and has no cycle.
    ///
    /// # Errors
    /// A sentence that begins with the key.
    pub(super) fn check_order(&self) -> Result<(), String> {
        let names = self.names();
        for name in &names {
            let after = self.after(name);
            let wrong = |what: String| Err(format!("{}: {what}", key(name)));
            for (place, other) in after.iter().enumerate() {
                if other == name {
                    return wrong(format!("`{name}` cannot be reloaded after itself; remove it"));
                }
                if !names.contains(other) {
                    return wrong(format!(
                        "there is no service `{other}`; this configuration has {}",
                        names.join(", ")
                    ));
                }
                if after[..place].contains(other) {
                    return wrong(format!("`{other}` is listed twice"));
                }
            }
        }
        match self.cycle() {
            Some(cycle) => {
                let steps: Vec<String> =
                    cycle.windows(2).map(|pair| format!("`{}` after `{}`", pair[0], pair[1])).collect();
                let steps = steps.join(", ");
                Err(format!("{}: the order has no beginning: {steps}; remove one of these names", key(&cycle[0])))
            }
            None => Ok(()),
        }
    }

    /// A service, one that it comes after, and so on, up to the first one again.
    fn cycle(&self) -> Option<Vec<String>> {
        let order = self.reload_order();
        let mut path = vec![self.names().into_iter().find(|name| !order.contains(name))?];
        loop {
            // What is not in the order waits for a service that is not in the order either.
            let next = self.after(path.last()?).iter().find(|name| !order.contains(name))?.clone();
            if let Some(first) = path.iter().position(|name| *name == next) {
                path.drain(..first);
                path.push(next);
                return Some(path);
            }
            path.push(next);
        }
    }
}

/// The key of a service, as messages name it.
fn key(name: &str) -> String {
    if name == HAPROXY { "haproxy.after".into() } else { format!("service.{name}.after") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A configuration of these services, each with the names in its `after`.
    fn parse(services: &[(&str, &[&str])]) -> Result<Config, String> {
        let mut text = String::new();
        for (number, (name, after)) in services.iter().enumerate() {
            text += &match *name {
                HAPROXY => format!("[haproxy]\nafter = {after:?}\n"),
                _ => format!(
                    "[service.{name}]\nstart = [\"/bin/x\"]\nsockets = \"replace\"\nlisten = [\"0.0.0.0:{}\"]\nafter = {after:?}\n",
                    8000 + number
                ),
            };
        }
        Config::parse(&text)
    }

    fn order(services: &[(&str, &[&str])]) -> Vec<String> {
        parse(services).unwrap().reload_order()
    }

    #[test]
    fn services_follow_those_that_they_name() {
        assert_eq!(order(&[("b", &[]), ("haproxy", &[]), ("a", &[])]), ["haproxy", "a", "b"]);
        assert_eq!(order(&[("haproxy", &["b"]), ("a", &["haproxy"]), ("b", &[])]), ["b", "haproxy", "a"]);
        assert_eq!(order(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &[])]), ["c", "b", "a"]);
        assert_eq!(Config::parse("").unwrap().reload_order(), ["haproxy"]);
    }

    #[test]
    fn impossible_orders_are_refused_with_key_and_services() {
        let refused = |services: &[(&str, &[&str])]| parse(services).unwrap_err();
        assert_eq!(refused(&[("a", &["a"])]), "service.a.after: `a` cannot be reloaded after itself; remove it");
        assert_eq!(
            refused(&[("haproxy", &["x"]), ("a", &[])]),
            "haproxy.after: there is no service `x`; this configuration has haproxy, a"
        );
        // Without its table HAProxy is not run beside other services.
        assert!(refused(&[("a", &["haproxy"])]).contains("there is no service `haproxy`"));
        assert!(refused(&[("a", &["b", "b"]), ("b", &[])]).contains("`b` is listed twice"));
        assert_eq!(
            refused(&[("d", &["b"]), ("a", &["b"]), ("b", &["c"]), ("c", &["b"])]),
            "service.b.after: the order has no beginning: `b` after `c`, `c` after `b`; remove one of these names"
        );
    }
}
