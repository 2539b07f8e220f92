"""Pure folds: a state and an event in, the next state and its changes out. No I/O, no clock."""
