"""What is told of the files that were made: tables, recommendations, the plot and the card."""
