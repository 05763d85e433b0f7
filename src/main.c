/* argv and exit statuses, nothing else. */
#include "connection/explain.h"
#include "daemon/daemon.h"
#include "journal/sink.h"
#include <getopt.h>
#include <stdio.h>

static const char usage[] =
        "Usage: tetherd [-c FILE] [--log-target=auto|journal|stderr]\n"
        "       tetherd --check-config [-c FILE]\n"
        "       tetherd --print-config [-c FILE]\n"
        "       tetherd --explain [-c FILE]\n"
        "\n"
        "Ties resources to connections: loads them on handshake, releases them however the connection ends.\n"
        "\n"
        "  -c, --config=FILE    read FILE and FILE.d/*.conf (default: " CONFIG_DEFAULT_PATH ")\n"
        "      --check-config   print every problem as FILE:LINE: message; exit 0 or 78\n"
        "      --print-config   print the effective configuration, defaults included\n"
        "      --explain        print how each way for a peer to die is noticed, and after how long at "
        "worst\n"
        "      --log-target=T   overrides the key log_target\n"
        "  -h, --help           this text\n"
        "      --version        the version\n"
        "\n"
        "See tetherd(8) and tetherd.conf(5).\n";

enum mode { MODE_RUN, MODE_CHECK, MODE_PRINT, MODE_EXPLAIN };

struct arguments {
        enum mode mode;
        const char *path;
        enum log_target log_target;
        bool has_log_target;
};

static int parse_log_target(const char *text, enum log_target *ret)
{
        static const char *const names[] = {
                [LOG_TARGET_AUTO] = "auto", [LOG_TARGET_JOURNAL] = "journal", [LOG_TARGET_STDERR] = "stderr"
        };

        for (size_t i = 0; i < ARRAY_SIZE(names); i++)
                if (streq(text, names[i])) {
                        *ret = (enum log_target)i;
                        return 0;
                }
        return -EINVAL;
}

/* -1: go on; otherwise the exit status. */
static int parse_arguments(int argc, char **argv, struct arguments *ret)
{
        enum {
                OPTION_CHECK = 256,
                OPTION_PRINT,
                OPTION_EXPLAIN,
                OPTION_LOG_TARGET,
                OPTION_HELP,
                OPTION_VERSION
        };
        static const struct option options[] = {
                { "config", required_argument, NULL, 'c' },
                { "check-config", no_argument, NULL, OPTION_CHECK },
                { "print-config", no_argument, NULL, OPTION_PRINT },
                { "explain", no_argument, NULL, OPTION_EXPLAIN },
                { "log-target", required_argument, NULL, OPTION_LOG_TARGET },
                { "help", no_argument, NULL, OPTION_HELP },
                { "version", no_argument, NULL, OPTION_VERSION },
                { 0 },
        };
        int option;

        *ret = (struct arguments){ .mode = MODE_RUN, .path = CONFIG_DEFAULT_PATH };
        while ((option = getopt_long(argc, argv, "c:h", options, NULL)) >= 0)
                switch (option) {
                case 'c':
                        ret->path = optarg;
                        break;
                case OPTION_CHECK:
                        ret->mode = MODE_CHECK;
                        break;
                case OPTION_PRINT:
                        ret->mode = MODE_PRINT;
                        break;
                case OPTION_EXPLAIN:
                        ret->mode = MODE_EXPLAIN;
                        break;
                case OPTION_LOG_TARGET:
                        if (parse_log_target(optarg, &ret->log_target) < 0) {
                                (void)fprintf(
                                        stderr,
                                        "tetherd: --log-target must be auto, journal or stderr, not '%s'\n",
                                        optarg);
                                return EXIT_USAGE;
                        }
                        ret->has_log_target = true;
                        break;
                case 'h':
                case OPTION_HELP:
                        (void)fputs(usage, stdout);
                        return EXIT_OK;
                case OPTION_VERSION:
                        (void)puts("tetherd " TETHERD_VERSION);
                        return EXIT_OK;
                default: /* getopt_long(3) has said what is wrong */
                        (void)fputs("Try 'tetherd --help'.\n", stderr);
                        return EXIT_USAGE;
                }
        if (optind < argc) {
                (void)fprintf(stderr, "tetherd: unexpected argument '%s'\nTry 'tetherd --help'.\n",
                              argv[optind]);
                return EXIT_USAGE;
        }
        return -1;
}

/* The exit status of what is only asked: an answer that could not be written is none. */
static int answer(int status)
{
        if (fflush(stdout) == 0 && !ferror(stdout))
                return status;
        say_fault("cannot write: %s", strerror(errno));
        return EXIT_RUNTIME;
}

/* To be checked, the faults are the answer; to be run, they are why it cannot. */
static void print_faults(enum mode mode, char *const *faults)
{
        FILE *file = mode == MODE_CHECK ? stdout : stderr;
        const char *prefix = mode != MODE_CHECK && stderr_is_journal_stream() ? "<3>" : "";

        for (; *faults; faults++)
                (void)fprintf(file, "%s%s\n", prefix, *faults);
}

/* What a check shows although the configuration is good. */
static int print_warnings(const struct config *config)
{
        _cleanup_strv_free_ char **warnings = NULL;
        int r = config_warnings(config, &warnings);

        for (char **warning = warnings; warning && *warning; warning++)
                (void)printf("%s\n", *warning);
        return r;
}

int main(int argc, char **argv)
{
        _cleanup_(config_unrefp) struct config *config = NULL;
        _cleanup_strv_free_ char **faults = NULL;
        struct arguments arguments;
        int r = parse_arguments(argc, argv, &arguments);

        if (r >= 0)
                return answer(r);
        r = config_load(arguments.path, &config, &faults);
        if (r < 0) {
                say_fault("%s: %s", arguments.path, strerror(-r));
                return EXIT_RUNTIME;
        }
        if (r == CONFIG_E_INVALID) {
                print_faults(arguments.mode, faults);
                return answer(EXIT_CONFIG);
        }
        switch (arguments.mode) {
        case MODE_CHECK:
                return answer(print_warnings(config) < 0 ? EXIT_RUNTIME : EXIT_OK);
        case MODE_PRINT:
                (void)config_print(config, stdout);
                return answer(EXIT_OK);
        case MODE_EXPLAIN:
                (void)explain_print(config, stdout);
                return answer(EXIT_OK);
        default:
                return daemon_run(arguments.path, TAKE_PTR(config),
                                  arguments.has_log_target ? &arguments.log_target : NULL);
        }
}
