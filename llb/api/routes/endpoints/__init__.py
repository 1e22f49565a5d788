"""Routes of engines elsewhere and of clouds."""
