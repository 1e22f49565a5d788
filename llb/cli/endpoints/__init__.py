"""Commands for engines elsewhere and clouds."""
