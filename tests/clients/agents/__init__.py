"""Agents and applications that are started, and asked, through their interfaces for programs."""
