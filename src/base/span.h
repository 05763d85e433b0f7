/*
 * span: times, sizes, counts and booleans as text. Times as in systemd.time(7): "30s", "1min 30s", "500ms",
 * "1.5h", "infinity"; a bare number is seconds. Sizes: "64K", "1M", "2G" are powers of 1024. Booleans:
 * yes/no/true/false/on/off/1/0.
 */
#pragma once

#include "base/util.h"

#define SPAN_TEXT_MAX 96

/* All four return 0, or -EINVAL (not understood) or -ERANGE (does not fit), and leave *ret alone then. */
int span_parse(const char *text, uint64_t *ret_usec);
int size_parse(const char *text, uint64_t *ret_bytes);
int count_parse(const char *text, uint64_t max, uint64_t *ret); /* decimal digits, 0 to max */
int boolean_parse(const char *text, bool *ret);

/*
 * Writes the span as span_parse() reads it, exactly ("1min 30s", "500ms", "infinity"); returns `buffer`.
 * span_format_rounded() is for people: at most two units, the second with one decimal where it is seconds:
 * "3min 2.1s", "1.2s", "45ms", "0s".
 */
const char *span_format(uint64_t usec, char buffer[static SPAN_TEXT_MAX]);
const char *span_format_rounded(uint64_t usec, char buffer[static SPAN_TEXT_MAX]);

/* Bytes for people: "120 B", "64.0 KiB", "1.5 MiB". */
const char *size_format_rounded(uint64_t bytes, char buffer[static SPAN_TEXT_MAX]);
