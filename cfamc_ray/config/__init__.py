"""What a person writes, validated: nothing here trains, draws or touches Ray or torch."""
