/*
 * digits: a number as text, without printf(3), which takes ten times as long: for what is written of every
 * connection.
 */
#pragma once

#include <stdint.h>
#include <string.h>

#define DIGITS_MAX 20 /* of a uint64_t; there is no NUL behind them */

/* Writes `number` to the base 10 or 16, lower case; returns where it ends. */
static inline char *put_digits(char *p, uint64_t number, unsigned base)
{
        char digits[DIGITS_MAX], *first = digits + DIGITS_MAX;

        do
                *--first = "0123456789abcdef"[number % base];
        while (number /= base);
        for (; first < digits + DIGITS_MAX; first++)
                *p++ = *first;
        return p;
}
