"""Campaigns on real processes, one module for each kind of trouble; `campaign.py` is their command line."""
