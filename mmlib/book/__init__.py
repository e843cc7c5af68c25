"""What only the book needs: figures, exercises, cost accounting, chapter 04's tasks."""
