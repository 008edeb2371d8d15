"""Check a method against what every method of this toolbox promises."""
