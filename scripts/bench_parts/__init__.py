"""What scripts/bench is made of: the place, the data, and a module for each section."""
