"""What a dry run of training says, the same for `eokit pretrain` and `eokit finetune`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.filesize import decimal

if TYPE_CHECKING:
    from eokit.config import Settings
    from eokit.training.dry_run import DryRun


def cost_facts(settings: Settings, notes: Sequence[str], cost: DryRun) -> dict[str, Any]:
    """Plain values for JSON."""
    facts = {"dry_run": True, "settings": settings.model_dump(mode="json"), "notes": list(notes), **vars(cost)}
    return facts | {"memory_bytes": cost.memory_bytes, "total_seconds": cost.steps * cost.step_seconds}


def cost_text(facts: dict[str, Any]) -> str:
    """The same facts for people."""
    step, total = facts["step_seconds"], facts["total_seconds"]
    state, activations = facts["state_bytes"], facts["activation_bytes"]
    return "\n".join(
        [
            *facts["notes"],
            f"parameters  {facts['parameters'] / 1e6:.2f} M, {facts['trained'] / 1e6:.2f} M of them trained",
            f"memory      about {decimal(state + activations)} a process: {decimal(state)} of state,"
            f" {decimal(activations)} for {facts['micro_batch']} samples at once",
            f"time        about {step:.3g} s a step on {facts['device']}, {facts['steps']} steps in {_duration(total)}",
            f"tried       a step on random numbers, its loss {facts['loss']:.4g}",
            "nothing was written",
        ]
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
