"""What labels mean: effects and doses, what they span, strata, and which conditions are held out."""
