//! The strategy for what can be bound beside the old generation, or passed to the new one: start, prove, then retire.

use super::attempt::Attempt;
use crate::receipt::Failure;
use crate::server::Prepared;

/// Runs it. Everything up to the retirement can fail without a trace for clients; nothing after it can fail.
pub(super) async fn run(attempt: &mut Attempt<'_>, prepared: &Prepared) -> Result<(), Failure> {
    attempt.recorder.phase(|phases| &mut phases.plan);

    attempt.protect_before_start(prepared);
    attempt.tell("starting the new generation");
    attempt.start(prepared, None).await?;
    attempt.recorder.phase(|phases| &mut phases.start);

    attempt.tell("confirming its listeners");
    let old = attempt.supervisor.present_listeners();
    let (inspection, verdicts) = attempt.prove(&old).await?;
    attempt.recorder.phase(|phases| &mut phases.confirm);

    attempt.protect(&inspection, &old, &verdicts).await;
    attempt.refuse_unproven(&verdicts)?;

    attempt.tell("retiring the old generation");
    let is_retiring = attempt.supervisor.is_served();
    attempt.supervisor.look_before_stop().await;
    attempt.refuse_if_new_has_ended()?;
    attempt.record_handover().await?;
    attempt.protection.open_to_new_generation(attempt.supervisor);
    let closed = attempt.retire(inspection, verdicts).await;
    if is_retiring && let Some(loss) = prepared.retires_with_loss() {
        attempt.recorder.note(loss);
    }
    attempt.recorder.phase(|phases| &mut phases.retire);
    let heartbeat = attempt.supervisor.heartbeat();
    heartbeat.during(attempt.protection.after_close(closed)).await;
    attempt.release().await;
    Ok(())
}
