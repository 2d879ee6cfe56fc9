"""Items of evaluation: stock tasks as the harness asks them, and minimal pairs from held-out documents."""
