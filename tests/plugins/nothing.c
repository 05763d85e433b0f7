/* An object that exports no plugin. */
int nothing(void);
int nothing(void)
{
        return 0;
}
