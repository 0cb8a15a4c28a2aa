"""What the module does beside its panel. Importing it imports no third-party package."""
