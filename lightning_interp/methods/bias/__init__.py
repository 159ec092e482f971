"""Context bias (after Zhang, Wang and Zhu, AAAI 2018): what a score depends on."""
