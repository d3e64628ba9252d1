"""`netdoctor run`: an unchanged program runs as under Python, and what it trains is found and watched."""
