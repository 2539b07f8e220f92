"""From the log to rows: folds, which are pure, and the store, where all SQL that writes stands."""
