//! Defines what reloads the service during a run, and what a reload reports.

/// A way to reload the service.
pub trait ReloadMethod {
    /// Reloads once, and waits for the end of the reload.
    fn reload(&self) -> impl Future<Output = ReloadReport>;

    /// What its receipts since the beginning of the run say was cut. Waits a few seconds for those of generations that still drain.
    fn receipts_cut(&self) -> impl Future<Output = ReceiptsCut> {
        std::future::ready(ReceiptsCut::None)
    }
}

/// How many connections were cut, by the receipts of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiptsCut {
    /// What reloads the service writes no receipts.
    None,
    /// A receipt says that it is not known, or the receipts cannot be read.
    Unknown,
    /// The sum.
    Count(u64),
}

/// What is known about one reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReloadReport {
    /// How the reload ended.
    pub result: ReloadResult,
    /// Why it failed or is unproven, in a sentence.
    pub reason: Option<String>,
    /// The last lines that the command or the server printed, where they explain a failure.
    pub output: Vec<String>,
}

/// How a reload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReloadResult {
    /// The command exited with status 0. A command gives no proof.
    Done,
    /// The daemon's receipt is proven.
    Proven,
    /// The daemon's receipt is unproven.
    Unproven,
    /// The command or the daemon's reload failed.
    Failed,
}

impl ReloadResult {
    /// The word for this result in the JSON object and the reports.
    pub fn word(self) -> &'static str {
        match self {
            ReloadResult::Done => "done",
            ReloadResult::Proven => "proven",
            ReloadResult::Unproven => "unproven",
            ReloadResult::Failed => "failed",
        }
    }
}

impl ReloadReport {
    /// A reload that ended with this result, without a reason and without output.
    pub fn plain(result: ReloadResult) -> ReloadReport {
        ReloadReport { result, reason: None, output: Vec::new() }
    }

    /// A reload that failed for this reason.
    pub fn failed(reason: String) -> ReloadReport {
        ReloadReport { result: ReloadResult::Failed, reason: Some(reason), output: Vec::new() }
    }
}
