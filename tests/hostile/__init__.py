"""What strangers bring, as data: commands with the files that they meet, and what has to come of them."""
