//! One ability of the kernel, as `reloader probe` shows it.

/// Something that the kernel can do or cannot do.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Ability {
    /// Its name for scripts, in kebab-case.
    pub name: &'static str,
    /// Whether this kernel has it for this process; `None` where a trial would change the machine.
    pub present: Option<bool>,
    /// How that was found.
    pub how: String,
    /// The consequence for reloads.
    pub follows: String,
}

impl Ability {
    pub(super) fn new(
        name: &'static str,
        (present, how): Finding,
        consequence: impl FnOnce(Option<bool>) -> &'static str,
    ) -> Self {
        Self { name, present, how, follows: consequence(present).into() }
    }
}

/// Whether the ability is present, and how that was found.
pub(super) type Finding = (Option<bool>, String);
