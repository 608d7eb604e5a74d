"""What a run would do, before it does it: the flow's own code on engines that answer from the ledger alone (docs/plan.md)."""
