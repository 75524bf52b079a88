"""Mixture-of-experts layers and routers."""
