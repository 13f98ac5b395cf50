"""A judge's grades of whole responses, by five criteria from 1 to 10 (GRACE-KTO, §4.1, appendix E)."""
