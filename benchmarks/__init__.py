"""One script a figure; results/ keeps what was measured, with machine and versions."""
