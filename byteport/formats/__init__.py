"""How the admin writes times: as the console and the commands do, with seconds, and saying of which zone they are."""
