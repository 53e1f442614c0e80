"""A run folder as something to read: a pure function of its JSON files. No model is loaded here."""
