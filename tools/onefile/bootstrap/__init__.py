"""What runs first in llb.pyz."""
