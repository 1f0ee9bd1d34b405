"""Binary sparse coding: the fixed point, its bound, and EM."""
