class ASGIToWSGI: pass
