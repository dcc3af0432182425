"""V2A-Mapper (arXiv:2308.09300), a second kind of bundle; `vab_rt.bundle.KINDS` names it."""
