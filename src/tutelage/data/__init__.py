"""Pictures from where they lie to a batch: index, decode, order, views, streams."""
