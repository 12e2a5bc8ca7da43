"""Results as one self-contained page: tables that sort, charts that answer, and how it was measured."""
