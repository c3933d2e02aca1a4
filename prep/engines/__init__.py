"""TODO flow"""
