"""The commands: one file a group. A command asks the parts, makes one document, and shows it."""
