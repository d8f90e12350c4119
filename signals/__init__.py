"""DETECT: readings come in from sources, are judged against thresholds, and open or close signal events.

(Infrastructure signals; nothing to do with Django's dispatcher.) Nothing here acts on infrastructure.
"""
