"""One training: its pictures gathered, its child processes run, what they leave stored; what trainings take here."""
