"""How an aligner is made: data, y- from the proposal, losses, the loop that trains, the recipe that says all of it."""
