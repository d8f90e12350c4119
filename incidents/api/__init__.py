"""The API for integrations, `/api/v1/`: the same reads as the console's, the same deeds (`incidents.operate`)."""
