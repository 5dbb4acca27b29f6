"""Every way to make a residual vanish: forward only, no derivative code."""

from ._newton import Newton as Newton
