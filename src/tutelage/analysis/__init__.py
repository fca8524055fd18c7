"""What a method does while it learns, taken apart: analyses of the papers, on models of any size."""
