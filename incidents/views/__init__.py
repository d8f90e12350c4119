"""The console's pages. They read through `incidents.queries`, and change through `incidents.operate`."""
