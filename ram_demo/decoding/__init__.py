"""How a token is chosen: propose, monitor, weigh, draw. Knows nothing of gradio, SQL or files."""
