"""What a stage's workers do, for one seed at a time: interrupted, it resumes; what comes out is written and logged."""
