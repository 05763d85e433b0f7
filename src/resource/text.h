/*
 * text: a lease as the text of its ledger record, and back. The record says everything that is needed to release
 * it (ledger.h says where it is kept and why its order of writing is safe):
 *
 *      tetherd-ledger 1
 *      connection=6421f0a3b7c01
 *      boot=0e2f…               /proc/sys/kernel/random/boot_id
 *      listener=presence
 *      remote=192.0.2.7:51514
 *      n_claims=1               of the lease, those of types that are not recorded included
 *      n_recorded=1
 *      .
 *      claim=0
 *      name=workdir
 *      type=directory
 *      state=loading            loading, loaded, releasing or empty
 *      persistent=0
 *      …                        what the type needs to release it
 *      .
 *
 * The form of the lines is that of fields.h. The last complete block of a claim counts.
 */
#pragma once

#include "base/util.h"
#include <stdio.h>

struct claim;
struct lease;
struct leases;

#define BOOT_TEXT_MAX 37 /* the id of a boot, as the kernel writes it */

/* What cannot be written shows at fclose(3). */
void text_write_head(FILE *file, const struct lease *lease, const char *boot);
int text_write_claim(FILE *file, const struct claim *claim); /* 0 or -ENOMEM */

/*
 * Makes a lease of a record's text, which it changes. `name`: the record's, the connection's id. `boot`: this one.
 * What was held in an earlier boot went with the machine, unless it is persistent. `*ret_length` is where the
 * last complete block ends. 0, -ENOMEM, -EINVAL: not one of our records, or -EPROTO: of another version.
 */
int text_read(char *text, const char *name, const char *boot, struct leases *leases, size_t *ret_length,
              struct lease **ret_lease);
