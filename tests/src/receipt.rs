//! Reads receipts for tests.

use serde_json::Value;

use crate::rig::Answer;

/// Panics with the receipt unless the reload succeeded and is proven.
#[track_caller]
pub fn assert_proven(receipt: &Answer) {
    let is_proven = receipt.status == 0 && receipt.at("/result") == "proven";
    assert!(is_proven, "status {}: {}{}", receipt.status, receipt.stdout, receipt.stderr);
}

/// The traffic listeners of a receipt.
pub fn traffic(receipt: &Answer) -> Vec<&Value> {
    let all = receipt.at("/listeners").as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().filter(|listener| listener["role"] == "traffic").collect()
}

/// The only listener with this address. Panics with the receipt if there is none or more than one.
#[track_caller]
pub fn listener<'a>(receipt: &'a Answer, address: &str) -> &'a Value {
    let all = receipt.at("/listeners").as_array().map(Vec::as_slice).unwrap_or_default();
    let found: Vec<&Value> = all.iter().filter(|listener| listener["address"] == address).collect();
    assert!(found.len() == 1, "{} listeners on {address}: {}", found.len(), receipt.stdout);
    found[0]
}

/// Panics with the receipt unless it is proven and exactly `count` traffic listeners were passed, each with its inode.
#[track_caller]
pub fn assert_passed(receipt: &Answer, count: usize) {
    let traffic = traffic(receipt);
    let kept = |listener: &&Value| {
        listener["rung"] == "passed"
            && listener["inode-before"].is_u64()
            && listener["inode-before"] == listener["inode-after"]
    };
    let passed = traffic.iter().filter(|listener| kept(listener)).count();
    assert!(
        receipt.status == 0 && receipt.at("/result") == "proven" && (passed, traffic.len()) == (count, count),
        "{passed} of {} passed, {count} expected, status {}: {}{}",
        traffic.len(),
        receipt.status,
        receipt.stdout,
        receipt.stderr
    );
}
