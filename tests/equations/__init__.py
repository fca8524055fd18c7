"""The equations of docs/methods, each against a formula written down a second time."""
