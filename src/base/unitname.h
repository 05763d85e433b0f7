/*
 * unitname: the names of systemd's units (systemd.unit(5), "String escaping for inclusion in unit names").
 */
#pragma once

#include "base/util.h"

#define UNIT_NAME_MAX 255

/* As systemd-escape(1) writes it, so that anything can stand in an instance's name. NULL when out of memory. */
char *unit_name_escape(const char *text);

/*
 * What is wrong with it as the name of a unit that can be started: the end of a sentence ("it is longer than 255
 * characters"), constant; NULL: nothing is. Whether there is such a unit is another question.
 */
const char *unit_name_fault(const char *name);
