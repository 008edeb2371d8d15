"""Functions that several rooms of the package use."""
